#!/bin/sh
# Runs SILO's preprocessing whenever the importer asks for it. For a container that has SILO but no Python.
#
# The importer renames run_silo (run_id=, timeout_seconds=) into the input folder; the answer is silo_done
# (run_id=, status=success|error, message=exit code N). run_silo stays until the answer is written, so a
# watcher that is killed starts the same run again. SILO sees none of our variables: it refuses unknown
# ones that begin with SILO_. An importer that gave up removes run_silo: its run is ended, and nobody answers.
# silo_version says which SILO this is, so that another one builds anew.
set -u
input=${INPUT_DIR:-${ROOT_DIR:-}/preprocessing/input}
silo=${PATH_TO_SILO_BINARY:-/app/silo}
config=${PREPROCESSING_CONFIG:-}

field() { sed -n "s/^$1=//p" "$input/run_silo" 2>/dev/null; }

pause() { sleep "${SILO_RUNNER_SLEEP_SECONDS:-1}"; }

# Write a text to a file, whole or not at all: on a full disk an empty file would take its name.
put() {
    printf '%s\n' "$2" 2>/dev/null >"$1.tmp" && [ "$(cat "$1.tmp")" = "$2" ] && mv "$1.tmp" "$1"
}

tell_version() {
    rm -f "$input/silo_version"
    # 10 s: a program that does not know the option may do anything.
    version=$(timeout -k 1 10 env -i PATH="$PATH" HOME="${HOME:-/}" "$silo" --version 2>/dev/null) || return
    version=$(printf '%s\n' "$version" | head -n 1)
    [ -z "$version" ] || put "$input/silo_version" "$version"
}

# Run SILO to its end, its time-out, or the moment when the importer does not wait for it any more.
run() {
    limit=$(field timeout_seconds)
    timeout -k 5 "${limit:-3600}" env -i PATH="$PATH" HOME="${HOME:-/}" \
        ${config:+SILO_PREPROCESSING_CONFIG="$config"} "$silo" preprocessing >"$input/silo.log" 2>&1 &
    build=$!
    while kill -0 "$build" 2>/dev/null; do
        [ "$(field run_id)" = "$run_id" ] || kill "$build" 2>/dev/null
        pause
    done
    wait "$build"
}

tell_version
while :; do
    run_id=$(field run_id)
    if [ -n "$run_id" ]; then
        run
        code=$?
        cat "$input/silo.log" 2>/dev/null
        [ "$code" -eq 0 ] && status=success || status=error
        answer="run_id=$run_id
status=$status
message=exit code $code"
        while [ "$(field run_id)" = "$run_id" ]; do
            put "$input/silo_done" "$answer" && rm -f "$input/run_silo" && break
            pause
        done
    fi
    pause
done
