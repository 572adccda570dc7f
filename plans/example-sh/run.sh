#!/bin/sh
# Uses nothing but the environment, stdout and the outputs directory. It prints its outcome; the manifest
# says that this counts.
set -eu
echo "plan $TEST_PLAN case $TEST_CASE group $TEST_GROUP_ID of $TEST_INSTANCE_COUNT"
env | sort | grep '^TEST_' > "$TEST_OUTPUTS_PATH/environment.txt"
echo "$TEST_INSTANCE_PARAMS" > "$TEST_OUTPUTS_PATH/params.txt"
echo '{"event":{"success_event":{"group":"'"$TEST_GROUP_ID"'"}}}'
