# Runs one command and reports on standard error, in records that the executor takes out again:
# a record separator, a word that nobody can guess, the report, a line feed.
# Arguments: the word, the process number of the holder, the directory, the command.
# The engine has made this shell the leader of a session and so of a process group.
__word=$1 __holder=$2
__say() { printf '\036%s %s\n' "$__word" "$1" >&2; }
cd -- "$3" 2>/dev/null || { __say folder; exit 0; }
unset OLDPWD
shift 3
__file=
case $1 in
*/*) if [ -e "$1" ]; then __file=$1; fi ;;
*)
  IFS=:
  set -f
  for __entry in $PATH; do
    if [ -f "$__entry/$1" ] && [ -x "$__entry/$1" ]; then
      __file=$__entry/$1
      break
    fi
  done
  set +f
  unset IFS
  ;;
esac
if [ -z "$__file" ]; then __say "missing $PATH"; exit 0; fi
if [ -d "$__file" ] || [ ! -x "$__file" ]; then __say denied; exit 0; fi
__say "start $$"
exec 3>&2 4>&1
trap : TERM HUP INT
# The command gets the three standard descriptors and nothing else. What the shell itself says of
# it, such as "Killed", goes into a variable: an exit code alone does not tell 137 from signal 9.
__run='( exec "$@" >&4 2>&3 3>&- 4>&- ); echo ":$?"'
if [ -n "$BASH_VERSION" ]; then
  # bash keeps quiet in a substitution, unless it is a shell of its own.
  __text=$(/bin/sh -c "trap : TERM HUP INT; $__run" sh "$@" 2>&1)
else
  __text=$(trap : TERM HUP INT; eval "$__run" 2>&1)
fi
__code=${__text##*:}
__how=exited
if [ "$__code" -gt 128 ]; then
  case $__text in
  *'core dumped'*) __how=dumped ;;
  :*) ;;
  *) __how=signaled ;;
  esac
fi
__oom=0
for __file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
  if [ -r "$__file" ]; then
    while read -r __name __value; do
      if [ "$__name" = oom_kill ]; then __oom=$__value; fi
    done < "$__file"
  fi
done
# What still lives and is neither init nor the holder nor this shell. The dead hold nothing.
__left=
for __entry in /proc/[0-9]*; do
  case ${__entry#/proc/} in 1|"$__holder"|$$) continue ;; esac
  { read -r __line < "$__entry/stat"; } 2>/dev/null || continue
  case ${__line##*\) } in
  Z*|X*) ;;
  *) __left="$__left ${__entry#/proc/}" ;;
  esac
done
__say "end $__how $__code $__oom$__left"
