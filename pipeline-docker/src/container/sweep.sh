# Ends every process of the container but init, the holder and this shell, until none is left or
# the rounds are over; prints how many were ended, then what still lives.
# Arguments: the process number of the holder, the number of rounds.
ended=0
round=0
while :; do
  left=
  for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    case $pid in 1|"$1"|$$) continue ;; esac
    { read -r line < "$entry/stat"; } 2>/dev/null || continue
    case ${line##*\) } in Z*|X*) continue ;; esac
    left="$left $pid"
    if kill -9 "$pid" 2>/dev/null && [ "$round" = 0 ]; then ended=$((ended + 1)); fi
  done
  round=$((round + 1))
  if [ -z "$left" ] || [ "$round" -ge "$2" ]; then break; fi
done
printf '%s%s\n' "$ended" "$left"
