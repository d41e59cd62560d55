#!/usr/bin/env bash
# What train.sbatch runs once on every node: the launcher, with the arguments given.
# Only here does a task know the number of its node. USR1 is for the processes; the launcher would die of it.
trap "" USR1
exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"
