"""Train in the background or on several GPUs; the same as `meloformer train`

nohup python scripts/train.py --model_size small --data data > train.log &
torchrun --nproc_per_node 8 scripts/train.py --model_size small --data data
"""
import os, sys
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE') # before torch: CPU threads that spin while they wait stall each other on a shared machine
from meloformer.apps.cli import run

if __name__ == '__main__': sys.exit(run('train', sys.argv[1:]))
