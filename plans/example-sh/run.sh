#!/bin/sh
# Uses nothing but the environment, stdout and the outputs directory. It has no way to publish an
# outcome, so by Testground's rules its run fails; what it prints and writes is kept all the same.
set -eu
echo "plan $TEST_PLAN case $TEST_CASE group $TEST_GROUP_ID of $TEST_INSTANCE_COUNT"
env | sort | grep '^TEST_' > "$TEST_OUTPUTS_PATH/environment.txt"
echo "$TEST_INSTANCE_PARAMS" > "$TEST_OUTPUTS_PATH/params.txt"
