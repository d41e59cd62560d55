# shellcheck shell=bash
# The settings of one cluster. Copy this file to slurm/site.sh (git ignores it), change the copy, and
#
#     source slurm/site.sh        before sbatch: the SBATCH_... lines become options of the job
#
# The job itself reads the file again on its first node. Everything here is optional. What the command line of sbatch
# says wins over SBATCH_..., and that wins over the #SBATCH lines of the scripts. Here stands what holds for every job, so
# neither nodes nor GPUs: a script asks for one GPU, or for none, and the command line for more.

# --- who pays, and where jobs run ---------------------------------------------------------------------------------
#export SBATCH_ACCOUNT=my_group
#export SBATCH_PARTITION=gpu
# Cores for each GPU of a job: one for the process, one for each of its loader workers (4 in vcm.yaml), some to spare.
# Without this line a node of a job has 8 cores, however many its GPUs; remove it where Slurm does not count GPUs.
export SBATCH_CPUS_PER_GPU=8

# --- how a node finds the software --------------------------------------------------------------------------------
# bare       the environment of launch/environment.sh in this checkout, which all nodes see      (default)
# pyxis      `srun --container-image`: REID_IMAGE is a .sqsh file or the name of an image
# apptainer  `apptainer exec`: REID_IMAGE is a .sif file
#export REID_ENVIRONMENT=bare
#export REID_IMAGE=/shared/images/reid.sqsh
#export REID_MOUNTS=/scratch,/data      # folders that a container sees under the same name, besides the checkout
#export REID_VENV=/shared/venvs/reid    # bare: another environment than .venv of the checkout
#export TORCH_HOME=/scratch/torch       # where ImageNet weights are kept; a container sees no home, so name a mounted folder

# --- how patient jobs are -----------------------------------------------------------------------------------------
#export REID_MAX_REQUEUES=20            # times that a job may put itself back into the queue
#export REID_PROCESSES_PER_NODE=4       # if Slurm does not say how many GPUs a node of the job has

# --- MLflow, NCCL -------------------------------------------------------------------------------------------------
#export MLFLOW_TRACKING_URI=https://mlflow.example.org
#export NCCL_SOCKET_IFNAME=ib0
# Passwords do not belong here. Keep MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in your own environment, from
# which sbatch hands them on. A bare job also finds ~/.mlflow/credentials, a container does not.
