#!/bin/sh
# The SDK writes a file into the working directory, so that has to be one of the instance's own.
here=$(dirname "$(readlink -f "$0")")
cd "$TEST_TEMP_PATH" || exit 1
exec node "$here/index.js"
