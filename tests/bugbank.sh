#!/bin/sh
# Plants the mistakes of src/raft/bugbank.rs one by one and runs the suites until one of them notices. Prints which, and after how long.
# Arguments: the numbers to try; all without any. SUITES names the test binaries to try, in this order. Exits 1 if a mistake is missed.
set -eu
cargo=${CARGO:-cargo}
suites=${SUITES:-model raft}
numbers=${*:-$(sed -n 's/^\/\/! | \([0-9][0-9]*\) | .*/\1/p' src/raft/bugbank.rs)}
# Mistakes belong into no ordinary build: one folder of their own.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/bugbank
RUSTFLAGS="${RUSTFLAGS:-} --cfg bugbank"
export CARGO_TARGET_DIR RUSTFLAGS
# A search that has not found the mistake within so many states of each set of bounds will not find it soon.
APEXKV_MODEL=full
APEXKV_MODEL_STATES=${APEXKV_MODEL_STATES:-3000000}
export APEXKV_MODEL APEXKV_MODEL_STATES

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for suite in $suites; do
    "$cargo" test --quiet -p apexkv --test "$suite" --no-run
    if ! "$cargo" test --quiet -p apexkv --test "$suite" >"$log" 2>&1; then
        cat "$log"
        echo "bugbank: $suite fails with no mistake planted" >&2
        exit 1
    fi
done

missed=0
for number in $numbers; do
    what=$(sed -n "s/^\/\/! | $number | \(.*\) |\$/\1/p" src/raft/bugbank.rs)
    noticed=
    for suite in $suites; do
        begun=$(date +%s%N)
        if ! APEXKV_BUG=$number "$cargo" test --quiet -p apexkv --test "$suite" >"$log" 2>&1; then
            milliseconds=$((($(date +%s%N) - begun) / 1000000))
            reason=$(grep -m 1 -e '^BROKEN' -e 'panicked at' "$log" | cut -c 1-140)
            echo "$number: noticed by $suite after $milliseconds ms: $what"
            echo "    $reason"
            noticed=yes
            break
        fi
    done
    if [ -z "$noticed" ]; then
        echo "$number: MISSED: $what"
        missed=1
    fi
done
exit $missed
