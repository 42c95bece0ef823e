#!/usr/bin/env bash
# The comparison: ApexKV, etcd and ZooKeeper with three nodes each, and Redis with one, on this machine, one after the other. Writes are
# durable everywhere before they are acknowledged. What is not installed is left out, with a word on how to install it.
#
# usage: tests/bench/peers.sh BIN SCRATCH      BIN has apexkv, apexkv-client, apexkv-chaos and zookeeper-load; `make bench-peers` runs it
# environment: CONNECTIONS="1 16 64 256", DURATION=3 (seconds of a point), RUNS=1, PEERS="apexkv redis zookeeper etcd"
#
# Everything listens on 127.0.0.1. Only what this script started is ended, and its files are removed.
set -euo pipefail

if [ $# -ne 2 ] && [ "${1:-}" != --apexkv-points ]; then
    echo 'usage: peers.sh BIN SCRATCH; or run it as `make bench-peers`' >&2
    exit 2
fi
export CONNECTIONS=${CONNECTIONS:-1 16 64 256} DURATION=${DURATION:-3} RUNS=${RUNS:-1}
PEERS=${PEERS:-apexkv redis zookeeper etcd}
BIN=$(cd "$2" 2>/dev/null && pwd || true)
SCRATCH=
STARTED=()

cleanup() {
    end_all
    [ -z "$SCRATCH" ] || rm -rf "$SCRATCH"
}

# Starts a server in the background: its output goes to a file, its process id into STARTED.
start() { # log command...
    local log=$1
    shift
    "$@" >>"$log" 2>&1 </dev/null &
    STARTED+=("$!")
}

end_all() {
    local pid
    for pid in "${STARTED[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    # Collected here, so that the shell does not report them.
    for pid in "${STARTED[@]}"; do wait "$pid" 2>/dev/null || true; done
    STARTED=()
}

# A program, not a function of this script.
have() { type -P "$1" >/dev/null; }

# Waits up to 30 s until a command succeeds; otherwise shows the log, and the peer is given up.
await() { # what log command...
    local what=$1 log=$2 attempt
    shift 2
    for ((attempt = 0; attempt < 300; attempt++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    echo "  $what did not start; it said:" >&2
    tail -n 5 "$log" >&2
    return 1
}

# name, operation, connections, operations per second, p50 and p99 in milliseconds
row() { printf '  %-10s %-5s %4s connections %9.0f ops/s   p50 %7.2f ms   p99 %7.2f ms\n' "$@"; }

# The figures of one of our own programs' JSON objects, as rate, p50 and p99 in milliseconds.
figures() {
    sed -E 's/.*"operations_per_second":([0-9.]+).*"p50_us":([0-9.]+).*"p99_us":([0-9.]+).*/\1 \2 \3/' |
        awk '{print $1, $2 / 1000, $3 / 1000}'
}

peer_apexkv() {
    echo "ApexKV: $("$BIN/apexkv" --version), three nodes, fdatasync on a majority before every acknowledgement, linearizable reads"
    "$BIN/apexkv-chaos" with-cluster --scratch-in "$SCRATCH" -- "$0" --apexkv-points "$BIN"
}

# Run by the above with the cluster's addresses in the environment.
apexkv_points() {
    local operation connections run result
    for run in $(seq "$RUNS"); do
        for operation in set get; do
            for connections in $CONNECTIONS; do
                result=$("$BIN/apexkv-client" -o json bench --workload "$operation" --connections "$connections" --duration "${DURATION}s" |
                    figures)
                # shellcheck disable=SC2086
                row apexkv "$operation" "$connections" $result
            done
        done
    done
}

peer_redis() {
    if ! have redis-server || ! have redis-benchmark; then
        echo 'Redis: not installed. On Debian and Ubuntu: apt-get install redis-server redis-tools'
        return
    fi
    echo "Redis: $(redis-server --version | cut -d' ' -f1-3), one node without replication, appendfsync always (fsync before the answer)"
    local folder=$SCRATCH/redis port=16379 connections operation run requests
    mkdir -p "$folder"
    start "$folder/log" redis-server --port "$port" --bind 127.0.0.1 --dir "$folder" --appendonly yes --appendfsync always --save '' \
        --daemonize no --loglevel warning
    await Redis "$folder/log" redis-cli -p "$port" ping || return 0
    for run in $(seq "$RUNS"); do
        for operation in set get; do
            for connections in $CONNECTIONS; do
                # It counts requests and not time: about so many as fit.
                requests=$((DURATION * (connections == 1 ? 4000 : connections < 64 ? 25000 : 45000)))
                redis_point "$operation" "$connections" "$port" "$requests"
            done
        done
    done
    end_all
}

redis_point() { # operation connections port requests
    local result
    result=$(redis-benchmark -p "$3" -t "$1" -d 256 -r 10000 -c "$2" -n "$4" --csv 2>/dev/null | tail -n 1 | tr -d '"' |
        awk -F, '{print $2, $5, $7}')
    # shellcheck disable=SC2086
    row redis "$1" "$2" $result
}

peer_zookeeper() {
    local jar=${ZOOKEEPER_JAR:-/usr/share/java/zookeeper.jar}
    if ! have java || [ ! -r "$jar" ]; then
        echo 'ZooKeeper: not installed. On Debian and Ubuntu: apt-get install zookeeper; elsewhere name its jar in ZOOKEEPER_JAR'
        return
    fi
    echo "ZooKeeper: $(readlink -f "$jar"), $(java -version 2>&1 | head -n 1), three nodes, forceSync on; its reads are local and may be stale"
    local classes=$jar
    # A folder of ZooKeeper's own has all that it needs beside it; the system's folder has everybody's, and the jar names what it needs.
    [ "$(dirname "$jar")" = /usr/share/java ] || classes="$(dirname "$jar")/*"
    local node other folder connections operation run result endpoints=127.0.0.1:21810,127.0.0.1:21811,127.0.0.1:21812
    for node in 0 1 2; do
        folder=$SCRATCH/zookeeper-$node
        mkdir -p "$folder"
        echo $((node + 1)) >"$folder/myid"
        {
            printf 'tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false\n'
            printf 'dataDir=%s\nclientPort=2181%s\nclientPortAddress=127.0.0.1\n' "$folder" "$node"
            for other in 0 1 2; do echo "server.$((other + 1))=127.0.0.1:2188$other:2189$other"; done
        } >"$folder/zoo.cfg"
        printf 'log4j.rootLogger=WARN,C\nlog4j.appender.C=org.apache.log4j.ConsoleAppender\n%s\n' \
            'log4j.appender.C.layout=org.apache.log4j.SimpleLayout' >"$folder/log4j.properties"
        start "$folder/log" java -Xmx1000m -Dzookeeper.log.dir="$folder" -cp "$folder:$classes" \
            org.apache.zookeeper.server.quorum.QuorumPeerMain "$folder/zoo.cfg"
    done
    await ZooKeeper "$SCRATCH/zookeeper-0/log" "$BIN/zookeeper-load" --endpoints "$endpoints" --operation create || { end_all; return 0; }
    # The first seconds go to the compiler of the Java machine.
    "$BIN/zookeeper-load" --endpoints "$endpoints" --operation set --seconds 3 >/dev/null
    for run in $(seq "$RUNS"); do
        for operation in set get; do
            for connections in $CONNECTIONS; do
                result=$("$BIN/zookeeper-load" --endpoints "$endpoints" --operation "$operation" --connections "$connections" \
                    --seconds "$DURATION" | figures)
                # shellcheck disable=SC2086
                row zookeeper "$operation" "$connections" $result
            done
        done
    done
    end_all
}

peer_etcd() {
    local server=${ETCD:-etcd} load=${ETCD_BENCHMARK:-benchmark}
    if ! have "$server"; then
        echo 'etcd: not installed. On Debian and Ubuntu: apt-get install etcd-server; or https://github.com/etcd-io/etcd/releases; ETCD names it'
        return
    fi
    if ! have curl; then
        echo 'etcd: the comparison needs curl, to write the key that is read: apt-get install curl'
        return
    fi
    if ! have "$load"; then
        echo "etcd: its load generator is not installed: git clone https://github.com/etcd-io/etcd && cd etcd && go install -v ./tools/benchmark"
        echo '      ETCD_BENCHMARK names it where it is not in PATH'
        return
    fi
    echo "etcd: $("$server" --version | head -n 1), three nodes, fsync on a majority before every acknowledgement, linearizable reads"
    local node folder connections run endpoints=127.0.0.1:23790,127.0.0.1:23791,127.0.0.1:23792
    local members=n0=http://127.0.0.1:23800,n1=http://127.0.0.1:23801,n2=http://127.0.0.1:23802
    for node in 0 1 2; do
        folder=$SCRATCH/etcd-$node
        mkdir -p "$folder"
        start "$folder/log" "$server" --name "n$node" --data-dir "$folder/data" --log-level error \
            --listen-client-urls "http://127.0.0.1:2379$node" --advertise-client-urls "http://127.0.0.1:2379$node" \
            --listen-peer-urls "http://127.0.0.1:2380$node" --initial-advertise-peer-urls "http://127.0.0.1:2380$node" \
            --initial-cluster "$members" --initial-cluster-state new
    done
    await etcd "$SCRATCH/etcd-0/log" "$load" --endpoints "$endpoints" put --key-size 16 --val-size 256 --total 1 || { end_all; return 0; }
    # That tool picks its keys by itself, and reads one that it is told: it is to be there, with a value like the others.
    curl --silent --show-error --output "$SCRATCH/etcd-put" http://127.0.0.1:23790/v3/kv/put --data \
        "{\"key\":\"$(printf apexkv-comparison | base64)\",\"value\":\"$(head -c 256 /dev/urandom | base64 -w 0)\"}" || { end_all; return 0; }
    for run in $(seq "$RUNS"); do
        # Eight clients to a connection is the fastest way to ask it.
        for connections in $CONNECTIONS; do
            etcd_point set "$connections" put --key-size 16 --val-size 256 --key-space-size 10000 --total \
                $((DURATION * (connections == 1 ? 1000 : 5000)))
        done
        for connections in $CONNECTIONS; do
            etcd_point get "$connections" range apexkv-comparison --consistency l --total $((DURATION * (connections == 1 ? 2000 : 12000)))
        done
    done
    end_all
}

etcd_point() { # operation clients arguments...
    local operation=$1 clients=$2 result
    shift 2
    result=$("$load" --endpoints "$endpoints" --conns $(((clients + 7) / 8)) --clients "$clients" "$@" 2>/dev/null |
        awk '/Requests\/sec/ {rate = $2} $1 == "50%" {p50 = $3} $1 == "99%" {p99 = $3} END {print rate, p50 * 1000, p99 * 1000}')
    # shellcheck disable=SC2086
    row etcd "$operation" "$clients" $result
}

if [ "$1" = --apexkv-points ]; then
    apexkv_points
    exit
fi
BIN=$(cd "$1" && pwd)
mkdir -p "$2"
trap cleanup EXIT
trap 'exit 130' INT TERM
SCRATCH=$(mktemp -d "$(cd "$2" && pwd)/apexkv-peers-XXXXXX")
echo "$(nproc) cores, $(uname -sr), $(df --output=fstype,source "$SCRATCH" | tail -n 1 | tr -s ' '); servers and load share the machine;" \
    "keys of 16 B, values of 256 B, one request in flight on each connection"
for peer in $PEERS; do
    case $peer in
    apexkv | redis | zookeeper | etcd) "peer_$peer" ;;
    *) echo "peers.sh: there is no $peer; PEERS takes apexkv, redis, zookeeper and etcd" >&2 && exit 2 ;;
    esac
done
