#!/usr/bin/env bash
# Ends the jobs in this container as a person would, by SIGTERM, and waits until they are gone: for a preStop hook.
# It is made for a container, and ends every `promptmill` that it may.
set -euo pipefail

jobs_here() {
    local folder
    for folder in /proc/[0-9]*; do
        if grep -qsz '/bin/promptmill$' "$folder/cmdline"; then
            echo "${folder#/proc/}"
        fi
    done
}

for job in $(jobs_here); do
    kill -TERM "$job" 2>/dev/null || true
done
for _ in {1..60}; do
    if [[ -z $(jobs_here) ]]; then
        exit 0
    fi
    sleep 0.25
done
