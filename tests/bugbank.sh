#!/bin/sh
# Plants the mistakes of src/bugbank.rs one by one and runs the suites until one of them notices: first the one that the table names,
# then the others in the order of their cost. Prints which test noticed, after how long, and its words. Exits 1 if a mistake is missed.
#
# Arguments: the numbers to try; all without any.
# SUITES    the suites to try, in this order (scripts random units clients model simulation cluster)
# EVERY     if 1, all suites are tried for each mistake, not only until one notices
# CHECK     if 0, the suites are not run without a mistake first
# SLOWNESS  how many times as long a suite may take, for a machine that has other work too
set -eu
cargo=${CARGO:-cargo}
table=src/bugbank.rs
suites=${SUITES:-scripts random units clients model simulation cluster}
numbers=${*:-$(sed -n 's/^\/\/! | \([0-9][0-9]*\) | .*/\1/p' $table)}

# Mistakes belong into no ordinary build: a folder of their own.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/bugbank
RUSTFLAGS="${RUSTFLAGS:-} --cfg bugbank"
# A search that has not found the mistake within so many states of each set of bounds will not find it soon.
APEXKV_MODEL=full
APEXKV_MODEL_STATES=${APEXKV_MODEL_STATES:-300000}
APEXKV_FAILURES=1
RUST_BACKTRACE=0
unset APEXKV_BUG
export CARGO_TARGET_DIR RUSTFLAGS APEXKV_MODEL APEXKV_MODEL_STATES APEXKV_FAILURES RUST_BACKTRACE

scratch=$(mktemp -d)
log=$scratch/log
running=
trap '[ -z "$running" ] || kill "$running" 2>/dev/null || true; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# What a suite is: a test binary, the arguments that choose its tests, how many seeds it tries, and how many seconds it may take.
binary_of() {
    case $1 in
        scripts | random) echo tests/raft/main.rs ;;
        units) echo 'unittests src/lib.rs' ;;
        clients) echo tests/client_port/main.rs ;;
        *) echo "tests/$1/main.rs" ;;
    esac
}
filter_of() {
    case $1 in
        scripts) echo scripts ;;
        random) echo '--skip scripts' ;;
    esac
}
seeds_of() {
    case $1 in
        random) echo 2000 ;;
        *) echo 500 ;;
    esac
}
limit_of() {
    case $1 in
        scripts) limit=30 ;;
        random | units | clients) limit=90 ;;
        *) limit=400 ;;
    esac
    echo $((limit * ${SLOWNESS:-1}))
}

# The binary's path, from what cargo has said.
path_of() {
    sed -n "s|^ *Executable $(binary_of "$1") (\(.*\))\$|\1|p" "$scratch/build"
}

# Runs a suite, at most for its time, and only until a first test has failed; false if one has.
run() {
    : >"$log"
    # shellcheck disable=SC2046
    APEXKV_SEEDS=$(seeds_of "$1") timeout -k 5 "$(limit_of "$1")" "$(path_of "$1")" $(filter_of "$1") --nocapture >"$log" 2>&1 &
    running=$!
    while kill -0 $running 2>/dev/null; do
        if grep -q '\.\.\. FAILED$' "$log"; then
            # Its whole group, so that servers which the test started end too.
            kill $running 2>/dev/null || true
        fi
        sleep 0.1
    done
    status=0
    wait $running || status=$?
    running=
    # 124: the time is over, and nobody has noticed anything.
    [ $status -eq 0 ] || [ $status -eq 124 ]
}

# What real processes do depends on the machine: only what fails twice in a row counts.
passes() {
    run "$1" || { [ "$1" = cluster ] && run "$1"; }
}

# The test that failed first, and the first line of what it said.
reason() {
    test=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | head -n 1)
    said=$(grep -m 1 -A 2 "^thread '$test'.* panicked at" "$log" | sed -n '2,3p' | grep -v '^note: ' | tr '\n' ' ')
    [ -n "$said" ] || said=$(grep -m 1 -A 1 'panicked at\|signal' "$log" | tr '\n' ' ')
    echo "${test:-the whole suite}: $said" | cut -c 1-190
}

seconds() {
    milliseconds=$((($(date +%s%N) - $1) / 1000000))
    printf '%d.%d s' $((milliseconds / 1000)) $((milliseconds % 1000 / 100))
}

all_begun=$(date +%s%N)
(cd "$(dirname "$0")/.." && "$cargo" test -p apexkv --tests --no-run 2>"$scratch/build") || { cat "$scratch/build" >&2; exit 1; }
if [ "${CHECK:-1}" = 1 ]; then
    for suite in $suites; do
        begun=$(date +%s%N)
        if ! passes "$suite" || [ $status -ne 0 ]; then
            cat "$log"
            echo "bugbank: $suite fails, or takes longer than $(limit_of "$suite") s, with no mistake planted" >&2
            exit 1
        fi
        echo "no mistake planted: $suite passes in $(seconds "$begun")"
    done
fi

tried=0 noticed=0 missed=
for number in $numbers; do
    row=$(sed -n "s/^\/\/! | $number | \(.*\) |\$/\1/p" $table)
    [ -n "$row" ] || { echo "bugbank: there is no mistake $number in $table" >&2; exit 2; }
    first=${row%% | *} what=${row#* | }
    order=$(for suite in $first $suites; do case " $suites " in *" $suite "*) echo "$suite" ;; esac; done | awk '!seen[$0]++')
    tried=$((tried + 1)) found=
    export APEXKV_BUG=$number
    for suite in $order; do
        begun=$(date +%s%N)
        if ! passes "$suite"; then
            [ -n "$found" ] || echo "$number: $what"
            echo "    noticed by $suite in $(seconds "$begun"): $(reason)"
            found=yes
            [ "${EVERY:-0}" = 1 ] || break
        fi
    done
    if [ -n "$found" ]; then
        noticed=$((noticed + 1))
    else
        echo "$number: $what"
        echo "    MISSED by $(echo $order)"
        missed="$missed $number"
    fi
done
echo "$noticed of $tried noticed in $((($(date +%s%N) - all_begun) / 1000000000)) s${missed:+; missed:$missed}"
[ -z "$missed" ]
