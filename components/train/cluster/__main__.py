"""Train on several nodes of a Kubernetes cluster.

Make a TrainJob that trains on --num-nodes nodes, follow it, and fetch what it made. It runs in a
pod, or wherever kubectl reaches a cluster. Data and checkpoints go through --checkpoint-uri.

example:
  python -m components.train.cluster --data data --pretrained roberta --output model \\
    --num-nodes 2 --checkpoint-uri s3://bucket/checkpoints
"""

from components.common.program import Program
from components.train.cluster.core import NodesConfig, train_on_nodes

main = Program(NodesConfig, train_on_nodes, __doc__)

if __name__ == "__main__":
    main.run()
