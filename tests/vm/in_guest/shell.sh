#!/bin/bash
# A root shell on a virtio port: each line "ID SECONDS BASE64" is run and answered by "ID EXITCODE BASE64".
# No temporary files, so that it works on a full or read-only disk. 124: not finished within SECONDS.
exec 3<>"$1"
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
while true; do
    while read -r id seconds command <&3; do
        output=$(
            timeout "$seconds" bash -c "$(printf %s "$command" | base64 -d)" </dev/null 3>&- 2>&1 | base64 -w0
            exit "${PIPESTATUS[0]}"
        )
        printf '%s %s %s\n' "$id" $? "$output" >&3
    done
    sleep 0.1 # the host's end is not open
done
