#!/usr/bin/env bash
# The one entry: ./build.sh VERB. Every verb prepares what it needs; a second run does no work twice.
set -euo pipefail
root=$(cd "$(dirname "$0")" && pwd)
tests=(tests/Sama.Functional.Tests tests/Sama.CSharp.Tests tests/Sama.Language.Tests tests/Sama.DataOptimization.Tests tests/Sama.TextCleaning.Tests tests/Sama.DataPruning.Tests tests/NoisyText.Tests tests/Sama.Ranks.Tests)
sources=(src tests examples benchmarks tools)
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1

usage() {
    cat <<'TEXT'
./build.sh quickstart          clean generated noisy labels with SAMA
./build.sh run EXAMPLE ARGS    run an example of examples/, or a script NAME.cs or NAME.fsx of examples/scripts
./build.sh run-ranks N EXAMPLE ARGS   the same on N ranks of this machine, by mpirun
./build.sh sama COMMAND ARGS   the tool: sama clean, sama prune and others
./build.sh bench NAME --json FILE   a measurement of benchmarks/Sama.Benchmarks
./build.sh test                build and run every test suite
./build.sh test-ranks          the suite of ranks alone, under Open MPI and MPICH
./build.sh rooms               the core's folders: files, lengths, and that none uses a later one
./build.sh test-libtorch [DIR] the core's suite without native packages, libtorch from DIR (default: the CPU package's)
./build.sh publish DIR         the folder of the tool 'sama' (clean, prune, check, bench): no .NET, libtorch by SAMA_LIBTORCH
./build.sh test-publish        publish, copy elsewhere, and 'sama check --device cpu' and 'sama prune' of pictures there
./build.sh format [--check]    format F# and C#, or check that they are formatted
./build.sh pack                write the NuGet packages to artifacts/
TEXT
}

# libLibTorchSharp.so needs the C++ runtime of GCC 13.2 or later
cpp_runtime() {
    [ "$(uname -s)" = Linux ] || { echo "warning: only Linux is tested" >&2; return; }
    local library
    # awk reads to the end: ldconfig would fail on a closed pipe
    library=$(ldconfig -p | awk '/libstdc\+\+\.so\.6 .*x86-64/ && !found++ { print $NF }')
    if [ -n "$library" ] && grep -qa GLIBCXX_3.4.32 "$library"; then return; fi
    if [ "$(id -u)" = 0 ] && [ -r /etc/debian_version ] && command -v apt-get >/dev/null; then
        echo "installing libstdc++6 from Debian trixie" >&2
        printf 'Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
            >/etc/apt/sources.list.d/trixie.sources
        printf 'Package: *\nPin: release n=trixie\nPin-Priority: 50\n' >/etc/apt/preferences.d/trixie
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y -t trixie libstdc++6 >&2
        return
    fi
    echo "libtorch's .NET binding needs libstdc++ with GLIBCXX_3.4.32 (GCC 13.2: Debian 13, Ubuntu 24.04), which this machine lacks." >&2
    echo "As root: add Debian's trixie suite and run 'apt-get install -t trixie libstdc++6'." >&2
    exit 1
}

# ranks need an MPI: Open MPI runs programs, the tests ask for MPICH beside it. Without root, and without both, the tests say
# by name what they leave out
mpi() { # packages
    local missing=()
    for package in "$@"; do
        case "$package" in
            openmpi-bin) command -v mpirun.openmpi >/dev/null || missing+=("$package") ;;
            mpich) command -v mpirun.mpich >/dev/null || missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}" >&2
        # apt's lists may be older than the archive
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
            { apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2; } ||
            echo "warning: ${missing[*]} could not be installed" >&2
        return 0
    fi
    echo "warning: ${missing[*]} missing; as root on Debian: apt-get install --no-install-recommends ${missing[*]}" >&2
}

mpirun_here() { # ranks, command: on this machine alone
    local ranks=$1
    shift
    local launcher
    launcher=$(command -v mpirun.openmpi || command -v mpirun) || { echo "no mpirun: install openmpi-bin" >&2; exit 1; }
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=0 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
        "$launcher" -n "$ranks" --oversubscribe --bind-to none "$@"
}

quietly() { # command; what it prints is shown if it fails
    local printed
    printed=$("$@" 2>&1) || { echo "$printed" >&2; return 1; }
}

tools() { (cd "$root" && quietly dotnet tool restore && quietly dotnet paket restore); }
prepare() { cpp_runtime; tools; }

run_project() { # project, arguments
    local project=$1
    shift
    dotnet build "$root/$project" -c Release -v quiet -nologo >&2
    dotnet "$root/$project/bin/Release/net10.0/linux-x64/$(basename "$project").dll" "$@"
}

suite() { # folder of logs, name, command: its log, and behind it its exit code
    local log="$1/$2" code=0
    shift 2
    "$@" >"$log" 2>&1 || code=$?
    cat "$log"
    echo "$code" >"$log.code"
}

run_suite() { # folder of logs, project
    suite "$1" "$(basename "$2")" dotnet "$root/$2/bin/Release/net10.0/linux-x64/$(basename "$2").dll" --summary --no-spinner --colours 0
}

run_tests() {
    local passed=0 failed=0 failures="" logs project log line code p f
    logs=$(mktemp -d)
    prepare
    mpi openmpi-bin mpich
    "$root/tools/rooms.sh" || failed=1
    dotnet build "$root/Sama.sln" -c Release -v quiet -nologo
    # suites run on one core each: the first, which takes as long as all others, beside them
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    # under job control, for without it a command in the background ignores SIGINT, which is tested
    set -m
    run_suite "$logs" "${tests[0]}" &
    set +m
    for project in "${tests[@]:1}"; do run_suite "$logs" "$project"; done
    # the tool's own checks, as a user runs them
    suite "$logs" check dotnet "$root/tools/Sama.Tool/bin/Release/net10.0/linux-x64/sama.dll" check --device cpu
    wait
    for log in "$logs"/*.code; do
        code=$(<"$log")
        log=${log%.code}
        # '1,395 passed, 0 ignored, 0 failed, 0 errored' of a suite, '233 passed, 0 failed' of the tool: 1,395 is 1395
        line=$(grep -E '[0-9] passed, ' "$log" | tail -n 1 | sed -E 's/([0-9]),([0-9]{3})/\1\2/g' || true)
        p=$(sed -nE 's/.* ([0-9]+) passed, .*/\1/p' <<<"$line")
        f=$(($(sed -nE 's/.* ([0-9]+) failed.*/\1/p' <<<"$line" | grep . || echo 0) + $(sed -nE 's/.* ([0-9]+) errored.*/\1/p' <<<"$line" | grep . || echo 0)))
        # what ends badly without a failed test has crashed, and what tells no count has not run
        if [ "$f" = 0 ] && { [ "$code" != 0 ] || [ -z "$p" ]; }; then f=1; fi
        passed=$((passed + ${p:-0}))
        failed=$((failed + f))
        if [ "$f" != 0 ]; then
            failures+=$(echo "$(basename "$log"), exit code $code:"; sed -n '/^[^ ]*\[[0-9:]* ERR\]/,/^[^ ]*\[[0-9:]* INF\]/p; /FAILED\|sama:/p' "$log" | grep . || tail -n 20 "$log")$'\n'
        fi
    done
    rm -rf "$logs"
    # once more, where the end of a long log shows it
    if [ -n "$failures" ]; then printf '\n%s\n' "$failures"; fi
    # a suite may end in a colour code without a line break: the count stands on a line of its own
    printf '\n%s passed, %s failed\n' "$passed" "$failed"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

cpu_libtorch() { # the folder of the CPU package's natives
    local folders=("${NUGET_PACKAGES:-$HOME/.nuget/packages}"/libtorch-cpu-linux-x64/2.10*/runtimes/linux-x64/native)
    echo "${folders[-1]}"
}

test_libtorch() {
    prepare
    local project=tests/Sama.Functional.Tests
    dotnet build "$root/$project" -c Release -v quiet -nologo -p:SamaNative=none >&2
    local output="$root/$project/bin/none/Release/net10.0/linux-x64"
    [ ! -e "$output/libtorch_cpu.so" ] || { echo "$output holds a libtorch: remove $root/$project/bin/none" >&2; exit 1; }
    SAMA_LIBTORCH=${1:-$(cpu_libtorch)} dotnet "$output/Sama.Functional.Tests.dll" --summary --no-spinner --colours 0
}

run_tool() { # arguments
    dotnet build "$root/tools/Sama.Tool" -c Release -v quiet -nologo >&2
    dotnet "$root/tools/Sama.Tool/bin/Release/net10.0/linux-x64/sama.dll" "$@"
}

publish() { # folder
    prepare
    dotnet publish "$root/tools/Sama.Tool" -c Release -r linux-x64 --self-contained -p:SamaNative=none -o "$1" -v quiet -nologo >&2
    local size
    size=$(du -sm "$1" | cut -f 1)
    echo "$1: $size MB"
    [ "$size" -le 60 ] || { echo "more than 60 MB" >&2; exit 1; }
}

test_publish() {
    local at
    at=$(mktemp -d)
    publish "$at/published"
    mv "$at/published" "$at/elsewhere"
    # no .NET, no home, nothing of the caller's environment but libtorch's folder
    local code=0
    published_sama() {
        (cd "$at" && env -i OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" SAMA_LIBTORCH="${SAMA_LIBTORCH:-$(cpu_libtorch)}" \
            "$at/elsewhere/sama" "$@")
    }
    published_sama check --device cpu --json "$at/check.json" || code=$?
    [ -s "$at/check.json" ] || code=1
    # pictures are decoded by a native library of their own
    published_sama prune --data "$root/tests/fixtures/pictures" --scores el2n-1 --keep 0.5 --epochs 1 --curve none --out "$at/pruned" || code=$?
    [ "$(wc -l <"$at/pruned/kept.txt")" = 4 ] || code=1
    rm -rf "$at"
    return "$code"
}

format() {
    tools
    cd "$root"
    if [ "${1:-}" = --check ]; then
        dotnet fantomas --check "${sources[@]}"
        dotnet format Sama.sln whitespace --verify-no-changes --no-restore --include src/Sama.CSharp tests/Sama.CSharp.Tests examples
    else
        dotnet fantomas "${sources[@]}"
        dotnet format Sama.sln whitespace --no-restore --include src/Sama.CSharp tests/Sama.CSharp.Tests examples
    fi
}

pack_library() { # name
    dotnet pack "$root/src/$1" -c Release -o "$root/artifacts" -v quiet -nologo
    # a restore would take the cached package of the same version for this one
    rm -rf "${NUGET_PACKAGES:-$HOME/.nuget/packages}/${1,,}"
}

pack() {
    prepare
    rm -rf "$root/artifacts"
    for library in Sama.Functional Sama.CSharp Sama.Language Sama.DataOptimization Sama.TextCleaning Sama.DataPruning; do
        pack_library "$library"
    done
    # the tool, with libtorch's CPU libraries inside: dotnet tool install -g Sama.Tool --add-source artifacts
    dotnet pack "$root/tools/Sama.Tool" -c Release -o "$root/artifacts" -v quiet -nologo
    ls "$root/artifacts"
}

verb=${1:-}
[ $# -gt 0 ] && shift
case "$verb" in
    quickstart) prepare && run_project examples/NoisyText --quickstart "$@" ;;
    run)
        example=${1:-}
        if [ -f "$root/examples/scripts/$example" ] && [[ $example == *.cs ]]; then
            shift
            prepare
            dotnet run -c Release "$root/examples/scripts/$example" -- "$@"
        elif [ -f "$root/examples/scripts/$example" ] && [[ $example == *.fsx ]]; then
            shift
            prepare
            pack_library Sama.Functional >&2
            RestoreAdditionalProjectSources="$root/artifacts" dotnet fsi --optimize+ "$root/examples/scripts/$example" "$@"
        elif [ -n "$example" ] && [ -f "$root/examples/$example/$example".*proj ]; then
            shift
            prepare
            run_project "examples/$example" "$@"
        else
            (cd "$root/examples" && echo "examples: $(ls -d */ | grep -v scripts | tr -d / | tr '\n' ' ')$(cd scripts && ls *.cs *.fsx | tr '\n' ' ')" >&2)
            exit 1
        fi
        ;;
    run-ranks)
        ranks=${1:-}
        example=${2:-}
        project=examples/$example
        library=$example
        if [ "$example" = sama ]; then project=tools/Sama.Tool library=sama; fi
        [[ "$ranks" =~ ^[1-9][0-9]*$ ]] && [ -n "$example" ] && [ -d "$root/$project" ] ||
            { echo "./build.sh run-ranks N EXAMPLE ARGS; examples: sama $(ls "$root/examples" | tr '\n' ' ')" >&2; exit 1; }
        shift 2
        prepare
        mpi openmpi-bin
        dotnet build "$root/$project" -c Release -v quiet -nologo >&2
        mpirun_here "$ranks" dotnet "$root/$project/bin/Release/net10.0/linux-x64/$library.dll" "$@"
        ;;
    sama) prepare && run_tool "$@" ;;
    bench) prepare && run_project benchmarks/Sama.Benchmarks "$@" ;;
    test) run_tests ;;
    test-ranks) prepare && mpi openmpi-bin mpich && run_project tests/Sama.Ranks.Tests --summary --no-spinner --colours 0 "$@" ;;
    rooms) "$root/tools/rooms.sh" ;;
    test-libtorch) test_libtorch "$@" ;;
    publish)
        [ -n "${1:-}" ] || { echo "./build.sh publish DIR" >&2; exit 1; }
        publish "$(realpath -m "$1")"
        ;;
    test-publish) test_publish ;;
    format) format "$@" ;;
    pack) pack ;;
    *) usage; [ -z "$verb" ] || exit 1 ;;
esac
