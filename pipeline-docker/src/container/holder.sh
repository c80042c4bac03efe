# Process 1 of a job's container, or the only child of the engine's init. It says what it sees and
# then waits for the end of its input, which comes when the program that made the container is gone.
# Arguments: the job folder, a name that is in it when the folder is shared with the host.
trap 'exit 0' TERM INT HUP
printf 'pid %s\n' "$$"
if [ -r /proc/self/status ]; then
  while read -r key real effective rest; do
    case $key in
      Uid:) user=$effective ;;
      Gid:) group=$effective ;;
    esac
  done < /proc/self/status
  printf 'user %s %s\n' "$user" "$group"
fi
if [ -n "$2" ] && [ -e "$1/$2" ]; then printf 'shared\n'; fi
if [ -r /etc/os-release ]; then
  while IFS='=' read -r name value; do
    if [ "$name" = PRETTY_NAME ]; then printf 'system %s\n' "$value"; fi
  done < /etc/os-release
fi
printf 'ready\n'
while read -r line; do :; done
