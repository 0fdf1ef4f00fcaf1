#!/usr/bin/env bash
# Runs the Autobahn test suite against the echo example and compares the outcome with README.md.
# Arguments: patterns of cases, such as '12.1.*'; without any, all groups.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON2:-python2.7}
folder=$PWD/target/autobahn
mkdir -p "$folder"

# A folder of packages that is this tree's own.
export PYTHONUSERBASE=$folder/python
if ! "$python" -c 'import autobahntestsuite' 2>/dev/null; then
  "$python" -m pip install --quiet --user autobahntestsuite==25.10.1
fi
cargo build --quiet --package waspmq-transport --example ws_echo

rm -rf "$folder/reports"
exec 3< <(exec target/debug/examples/ws_echo 127.0.0.1:0)
echo_id=$!
trap 'kill "$echo_id"' EXIT
read -r -u 3 line
url=${line#listening on }

if [ $# = 0 ]; then
  set -- '1.*' '2.*' '3.*' '4.*' '5.*' '6.*' '7.*' '9.*' '10.*' '12.*' '13.*'
fi
cases=$(printf '"%s",' "$@")
cat >"$folder/spec.json" <<SPEC
{"outdir": "$folder/reports", "servers": [{"agent": "waspmq", "url": "$url"}],
 "cases": [${cases%,}], "exclude-cases": [], "exclude-agent-cases": {}}
SPEC
"$python" -m autobahntestsuite.wstest --mode fuzzingclient --spec "$folder/spec.json"

"$python" - "$folder/reports/index.json" <<'PYTHON'
import json, sys

outcomes = json.load(open(sys.argv[1]))["waspmq"]

def expected(case):
    if case.startswith(("13.3.", "13.5.")):
        return ["UNIMPLEMENTED"]
    return ["OK", "INFORMATIONAL"] if case in ("7.1.6", "7.13.1", "7.13.2") else ["OK"]

failed = 0
for case, outcome in sorted(outcomes.items()):
    good = outcome["behavior"] in expected(case) and outcome["behaviorClose"] in ("OK", "INFORMATIONAL")
    if not good:
        failed += 1
        print("%s: %s, closing %s" % (case, outcome["behavior"], outcome["behaviorClose"]))
print("%d passed, %d failed" % (len(outcomes) - failed, failed))
sys.exit(1 if failed or not outcomes else 0)
PYTHON
