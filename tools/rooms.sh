#!/usr/bin/env bash
# The rooms of the core: for each folder its files, their median and longest, its longest function; fails where a file has
# more than 300 lines, a function more than 60, or the project's order does not keep each folder together: F# compiles in
# that order, so that a folder cannot use a later one.
set -euo pipefail
project=${1:-$(dirname "$0")/../src/Sama.Functional/Sama.Functional.fsproj}
folder=$(dirname "$project")
mapfile -t files < <(sed -nE 's/.*<Compile Include="([^"]+)".*/\1/p' "$project")
failed=0

previous=""
seen=" "
for file in "${files[@]}"; do
    room=${file%%/*}
    if [ "$room" != "$previous" ]; then
        case "$seen" in *" $room "*) echo "$project: folder $room comes twice, at $file" >&2; failed=1 ;; esac
        seen+="$room "
        previous=$room
    fi
done
for file in "$folder"/*/*.fs; do
    case "$file" in */obj/*|*/bin/*) continue ;; esac
    grep -qF "\"${file#"$folder"/}\"" "$project" || { echo "$file is not compiled" >&2; failed=1; }
done

# a function begins at `let` or `member` of a module or type and ends where the next line of that depth begins
functions() {
    awk '
        function close_(   n) { if (name != "") { n = last - start + 1; print n, FILENAME ":" start " " name } name = "" }
        /^[[:space:]]*$/ { next }
        { match($0, /^ */); depth = RLENGTH }
        name != "" && depth <= at && $0 !~ /^ *[)\]}|]/ { close_() }
        name == "" && depth <= 4 && /^ *(let|and|member|static member|override|new)[ (]/ { name = $0; sub(/^ */, "", name); name = substr(name, 1, 60); start = NR; at = depth }
        { last = NR }
        END { close_() }' "$1"
}

printf '%-12s %5s %6s %7s  %-34s %8s  %s\n' folder files median longest "" function ""
for room in $seen; do
    lengths=()
    longest=0
    where=""
    best=0
    bestAt=""
    for file in "${files[@]}"; do
        [ "${file%%/*}" = "$room" ] || continue
        n=$(wc -l <"$folder/$file")
        lengths+=("$n")
        if [ "$n" -gt "$longest" ]; then longest=$n where=${file#*/}; fi
        [ "$n" -le 300 ] || { echo "$file has $n lines" >&2; failed=1; }
        while read -r size at; do
            if [ "$size" -gt "$best" ]; then best=$size bestAt=${at#"$folder/$room/"}; fi
            [ "$size" -le 60 ] || { echo "$at: $size lines" >&2; failed=1; }
        done < <(functions "$folder/$file")
    done
    median=$(printf '%s\n' "${lengths[@]}" | sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }')
    printf '%-12s %5d %6d %7d  %-34s %8d  %s\n' "$room" "${#lengths[@]}" "$median" "$longest" "$where" "$best" "$bestAt"
done
exit $failed
