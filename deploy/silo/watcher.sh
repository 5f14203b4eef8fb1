#!/bin/sh
# Runs SILO's preprocessing whenever the importer asks for it. For a container that has SILO but no Python.
#
# The importer renames run_silo (run_id=, timeout_seconds=) into the input folder; the answer is silo_done
# (run_id=, status=success|error, message=exit code N). run_silo stays until the answer is written, so a
# watcher that is killed starts the same run again. SILO sees none of our variables: it refuses unknown
# ones that begin with SILO_. An importer that gave up removes run_silo, and nobody answers it.
set -u
input=${INPUT_DIR:-${ROOT_DIR:-}/preprocessing/input}
silo=${PATH_TO_SILO_BINARY:-/app/silo}
config=${PREPROCESSING_CONFIG:-}

field() { sed -n "s/^$1=//p" "$input/run_silo" 2>/dev/null; }

while :; do
    run_id=$(field run_id)
    if [ -n "$run_id" ]; then
        limit=$(field timeout_seconds)
        timeout -k 5 "${limit:-3600}" env -i PATH="$PATH" HOME="${HOME:-/}" \
            ${config:+SILO_PREPROCESSING_CONFIG="$config"} "$silo" preprocessing >"$input/silo.log" 2>&1
        code=$?
        cat "$input/silo.log"
        [ "$code" -eq 0 ] && status=success || status=error
        printf 'run_id=%s\nstatus=%s\nmessage=exit code %s\n' "$run_id" "$status" "$code" >"$input/silo_done.tmp"
        if [ "$(field run_id)" = "$run_id" ]; then
            mv "$input/silo_done.tmp" "$input/silo_done" && rm -f "$input/run_silo"
        fi
    fi
    sleep "${SILO_RUNNER_SLEEP_SECONDS:-1}"
done
