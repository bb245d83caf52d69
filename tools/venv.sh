#!/bin/sh
# Make .venv with the package and one extra in it (tools/venv.sh demo|dev); a second run finds it done.
# PYTHON names the interpreter (default: the first of python3, python3.13 … python3.10 that is new enough).
set -eu
cd "$(dirname "$0")/.."
extra=${1:-dev}
py=.venv/bin/python

die() { echo "meloformer: $*" >&2; exit 1; }
say() { echo "== $*"; }

key() { # changes when the requirements, the interpreter or the place of this folder do
    { cat settings.ini setup.py; pwd; "$py" -V; } | cksum
}
ready() { [ -x "$py" ] && for e in "$@"; do [ "$(cat ".venv/ready-$e" 2>/dev/null)" = "$(key 2>/dev/null)" ] && return 0; done; return 1; }

# dev holds all that the demo needs
case $extra in
    demo) ready demo dev && exit 0 ;;
    dev) ready dev && exit 0 ;;
    *) die "tools/venv.sh takes 'demo' or 'dev', not '$extra'" ;;
esac

new_enough='import sys; sys.exit(sys.version_info < (3, 10))'
python=
for p in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if command -v "$p" >/dev/null 2>&1 && "$p" -c "$new_enough" 2>/dev/null; then python=$p; break; fi
done
if [ -z "$python" ]; then
    found=$("${PYTHON:-python3}" -V 2>&1) || found="no ${PYTHON:-python3}"
    die "Python 3.10 or newer is needed, and there is $found. Install one, or name it: make demo PYTHON=/path/to/python3.12"
fi

[ -e .venv ] && [ ! -e .venv/pyvenv.cfg ] && die ".venv is there, but is no Python environment; move it away, then run this again"
if ! "$py" -m pip --version >/dev/null 2>&1 || ! "$py" -c "$new_enough"; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python lacks the venv module. On Debian and Ubuntu: apt install python3-venv. Then run this again"
    say "Making .venv with $("$python" -V 2>&1)"
    "$python" -m venv .venv || die "the environment in .venv could not be made"
fi

quiet=-q
[ -t 1 ] && quiet=
pip() {
    "$py" -m pip --disable-pip-version-check install $quiet "$@" || die "installing failed (see above). It needs a package index, by default
pypi.org; for another, set PIP_INDEX_URL. Run the same command again to go on from here"
}
# torch by its exact pin and by itself: another release may bring gigabytes for a GPU that is not there
torch=$(sed -n 's/.*[= ]\(torch==[^ ]*\).*/\1/p' settings.ini)
say "Installing $torch and the '$extra' requirements (once; some minutes, most of it for PyTorch)"
pip "$torch"
pip --use-pep517 -e ".[$extra]"
key > ".venv/ready-$extra"
