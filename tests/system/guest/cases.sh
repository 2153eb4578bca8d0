# Sourced by a guest's test script, for several test cases in one boot:
#
#   . /lib/cases.sh
#   reads_back() { echo hello >/dev/vda; [ "$(head -c5 /dev/vda)" = hello ]; }
#   case_run reads_back
#   case_end
#
# A case is a function, run with `set -e` in a subshell. Each is reported on the second serial port as
# `CASE name ok`, or `CASE name fail REASON`: what `fail` was given, or else the last command. All commands are traced on
# the console.

cases_failed=0

# fail TEXT: ends the case.
fail() {
  echo "$*" >/tmp/case.reason
  exit 1
}

# expect_equal ACTUAL EXPECTED [WHAT]
expect_equal() {
  [ "$1" = "$2" ] || fail "${3:-value}: got '$1', expected '$2'"
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
  local tries=$(($1 * 10))
  shift
  while [ $tries -gt 0 ]; do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
    tries=$((tries - 1))
  done
  fail "waited in vain for: $*"
}

# note TEXT: a line for the driver on the host, which can wait for it.
note() {
  echo "NOTE $*"
  echo "NOTE $*" >/dev/ttyS1
}

# case_run FUNCTION [ARGUMENTS]
case_run() {
  name=$(echo "$*" | tr ' ' '_')
  rm -f /tmp/case.*
  echo "CASE $name begins"
  {
    (
      set -ex
      "$@"
    ) 2>&1
    echo $? >/tmp/case.status
  } | tee /tmp/case.log
  status=$(cat /tmp/case.status)
  if [ "$status" = 0 ]; then
    echo "CASE $name ok" >/dev/ttyS1
    return
  fi
  cases_failed=$((cases_failed + 1))
  [ -e /tmp/case.reason ] || echo "status $status after: $(grep '^+' /tmp/case.log | tail -n1)" >/tmp/case.reason
  echo "CASE $name fail $(cat /tmp/case.reason)" >/dev/ttyS1
}

# Ends the script: status 1 if a case failed.
case_end() {
  [ $cases_failed = 0 ]
  exit $?
}
