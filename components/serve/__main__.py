"""Answer questions over HTTP with a trained model.

Answer questions over HTTP: POST /predict, and KServe's POST /v1/models/race:predict, take JSON, and
GET / is a page to ask by hand. Questions of many requests are computed together. GET /healthz says
that the server lives, GET /readyz that the model is loaded. SIGTERM ends it when what is under way
is answered.

A question is {"article": "...", "question": "...", "options": ["...", ...]}, with 2 to 26 options
and an "id" if it is to come back, or what a RACE file holds; a list of them is answered by a list.

examples:
  python -m components.serve --model runs/latest
  python -m components.serve --model s3://bucket/models/race --host 0.0.0.0 --log-format json
"""

from components.common.program import Program
from components.serve.config import ServeConfig
from components.serve.core import serve

main = Program(ServeConfig, serve, __doc__)

if __name__ == "__main__":
    main.run()
