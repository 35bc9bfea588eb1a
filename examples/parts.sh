#!/bin/sh
# All parts of one batch, some at a time: parts.sh [data.csv] [results.jsonl] [parts] [at a time]
# The same call again goes on where it stopped. With GNU parallel the last command is
#   seq "$parts" | parallel -j "$at_a_time" dify-batch -q -i "$input" -o "$results" --shard {}/"$parts"
input=${1:-data.csv} results=${2:-results.jsonl} parts=${3:-8} at_a_time=${4:-4}
seq "$parts" | xargs -P "$at_a_time" -I {} dify-batch -q -i "$input" -o "$results" --shard {}/"$parts"
