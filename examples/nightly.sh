#!/bin/sh
# One batch a night, from cron: nightly.sh [data.csv]
#
# Prints nothing when all is well. Rows that failed are run once more later the same night; what is then left needs a
# person, and is printed. Two of these at once do no harm: the second finds the output taken and tries again later.
#
# From the environment, all optional:
#   DIFY_BATCH_COMMAND  the command (dify-batch); cron knows few folders, so a full path is safest
#   RESULTS_DIR         where the results go (.)
#   RETRY_AFTER         seconds until failed rows are run again (7200)
#   AGAIN_AFTER, TRIES  seconds until a batch that ended with 75 goes on (600), and how often it is begun at most (12)
set -u

input=${1:-data.csv}
command=${DIFY_BATCH_COMMAND:-dify-batch}
# The date is taken once: a batch that lasts beyond midnight keeps its file.
results=${RESULTS_DIR:-.}/results-$(date +%F).jsonl
log=${results%.jsonl}.log
said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT

# A signal goes to the command, which finishes its runs and ends; then so does this script.
child= stopped=
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' INT TERM

# run COMMAND...: waits for it, also beyond a signal; its exit status is in $status.
run() {
    "$@" &
    child=$!
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
        status=$?
    done
    child=
}

# `exec`, so that the signal reaches the command and not a shell around it.
once() {
    exec "$command" -q -i "$input" -o "$results" --log-file "$log" "$@" >"$said" 2>&1
}

# batch [FLAG...]: one batch; 75 means "not finished and nothing wrong: run again".
batch() {
    try=1
    run once "$@"
    while [ "$status" -eq 75 ] && [ "$try" -lt "${TRIES:-12}" ] && [ -z "$stopped" ]; do
        try=$((try + 1))
        run sleep "${AGAIN_AFTER:-600}"
        status=75
        [ -n "$stopped" ] || run once "$@"
    done
}

batch
if [ "$status" -eq 1 ] && [ -s "$results.retry" ] && [ -z "$stopped" ]; then
    run sleep "${RETRY_AFTER:-7200}"
    status=1
    [ -n "$stopped" ] || batch --retry
fi
[ "$status" -eq 0 ] || cat "$said" >&2
exit "$status"
