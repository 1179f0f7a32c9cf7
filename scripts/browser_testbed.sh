#!/bin/sh
# What the browser tests need: Chromium and its driver (Debian, as root, where missing), and
# axe-core from npm in build/browser, which git ignores.
set -eu
cd "$(dirname "$0")/.."
AXE=4.14.1

missing=
command -v chromium >/dev/null || missing="$missing chromium"
command -v chromedriver >/dev/null || missing="$missing chromium-driver"
command -v npm >/dev/null || missing="$missing npm"
if [ -n "$missing" ]; then
    apt-get update -qq
    # Another installation may be under way: wait for it. $missing is a list of words.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq \
        --no-install-recommends $missing
fi
if ! grep -qs "\"version\": \"$AXE\"" build/browser/node_modules/axe-core/package.json; then
    npm install --prefix build/browser --no-save --no-audit --no-fund --ignore-scripts \
        --loglevel=error "axe-core@$AXE"
fi
echo "Browser tests can run: $(chromium --version 2>/dev/null), axe-core $AXE"
