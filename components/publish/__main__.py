"""Put a trained model where people take it from.

Put a trained model where people take it from, as a Hugging Face model with its BPE, dictionary,
card and metrics: an s3:// address, a folder, or a repository of the Hugging Face hub. predict,
evaluate, export and serve take it from there as --model.

examples:
  python -m components.publish --model runs/latest --publish-uri s3://bucket/models/one
  python -m components.publish --model runs/latest --publish-uri hf://owner/name
"""

from components.common.program import Program
from components.publish.core import PublishConfig, publish

main = Program(PublishConfig, publish, __doc__)

if __name__ == "__main__":
    main.run()
