#!/bin/sh
# One batch in 16 parts as a Slurm array: sbatch slurm-array.sh. The folder must be one that all nodes see.
# DIFY_API_KEY stands in .env in this folder, or in the environment of sbatch.
#SBATCH --job-name=dify-batch
#SBATCH --array=1-16
#SBATCH --cpus-per-task=1
#SBATCH --mem=512M
#SBATCH --signal=B:TERM@120
# Slurm sends SIGTERM two minutes before the time is up: what runs is finished. The same array again goes on.
exec dify-batch -q -i data.csv -o results.jsonl --shard "$SLURM_ARRAY_TASK_ID/16" --log-file "part-$SLURM_ARRAY_TASK_ID.log"
