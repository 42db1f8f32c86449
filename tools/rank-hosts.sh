#!/usr/bin/env bash
# Simulated hosts on one machine, for ranks over a network of limited rate: network namespaces on a bridge, each of which
# mpirun takes for a host of its own.
#   tools/rank-hosts.sh HOSTS RATE COMMAND ARGS    one rank a host, at a rate as tc names it (1gbit)
# Needs root, iproute2 and Open MPI; without, it says so and ends with 77, which test runners take for skipped.
set -euo pipefail
skip() { echo "skipped: rank-hosts: $1" >&2; exit 77; }
prefix=samarank

if [ "${1:-}" = agent ]; then # what mpirun calls instead of ssh: host, command
    name=$2
    shift 2
    exec ip netns exec "$name" unshare --uts bash -c "hostname $name; $*"
fi

[ $# -ge 3 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 1; }
hosts=$1 rate=$2
shift 2
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null && command -v tc >/dev/null || skip "no ip and tc: apt-get install iproute2"
launcher=$(command -v mpirun.openmpi || command -v mpirun) || skip "no mpirun: apt-get install openmpi-bin"
self=$(realpath "$0")

cleanup() {
    for i in $(seq 0 "$hosts"); do ip netns del "$prefix$i" 2>/dev/null || true; done
    rm -f "$wrapper" "$names"
}
wrapper=$(mktemp) names=$(mktemp)
trap cleanup EXIT
# namespace 0 is the switch
ip netns add "${prefix}0" 2>/dev/null || skip "this kernel or container makes no network namespaces"
ip netns exec "${prefix}0" ip link add bridge type bridge || skip "no bridge in this kernel"
ip netns exec "${prefix}0" ip link set bridge up
list=""
for i in $(seq 1 "$hosts"); do
    ip netns add "$prefix$i"
    ip netns exec "$prefix$i" ip link set lo up
    ip link add "sh$i" type veth peer name "sw$i"
    ip link set "sh$i" netns "$prefix$i"
    ip link set "sw$i" netns "${prefix}0"
    ip netns exec "${prefix}0" ip link set "sw$i" master bridge up
    ip netns exec "$prefix$i" ip addr add "10.79.0.$i/24" dev "sh$i"
    ip netns exec "$prefix$i" ip link set "sh$i" up
    # both directions
    ip netns exec "$prefix$i" tc qdisc add dev "sh$i" root tbf rate "$rate" burst 512kb latency 100ms || skip "no tc tbf in this kernel"
    list+="${list:+,}$prefix$i:1"
    echo "10.79.0.$i $prefix$i" >>"$names"
done
# hosts are found by name
printf '#!/bin/bash\nexec "%s" agent "$@"\n' "$self" >"$wrapper"
chmod +x "$wrapper"
mkdir -p /etc/netns
for i in $(seq 1 "$hosts"); do
    mkdir -p "/etc/netns/$prefix$i"
    { echo "127.0.0.1 localhost"; cat "$names"; } >"/etc/netns/$prefix$i/hosts"
done
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$self" agent "${prefix}1" "$launcher" -n "$hosts" -H "$list" --bind-to none --mca plm rsh --mca plm_rsh_agent "$wrapper" \
    --mca btl tcp,self --mca btl_tcp_if_include 10.79.0.0/24 --mca oob_tcp_if_include 10.79.0.0/24 \
    --mca mpi_yield_when_idle 0 -x OMP_NUM_THREADS "$@"
