"""What users of an MLflow server with passwords try to do there, and how far they get.

`python -c USERS ADDRESS` prints EXPECTED as JSON if the server is as it should be.
"""

ADMIN_PASSWORD = "a long password"
EXPECTED = {
    "admin writes": ["of admin"],
    "a user writes into the same experiment": ["of admin", "of trainer"],
    "a user deletes what admin wrote": 403,
    "a stranger writes": 401,
}
USERS = f"""
import json, os, sys
import mlflow
from mlflow.server import get_app_client

def use(name, word):
    os.environ.update(MLFLOW_TRACKING_USERNAME=name, MLFLOW_TRACKING_PASSWORD=word)

def write(name):
    mlflow.set_experiment("vcm")
    with mlflow.start_run(run_name=f"of {{name}}"):
        mlflow.log_metric("loss", 0.5)
        mlflow.log_text("not a picture", "picture.txt")
    return sorted(mlflow.search_runs(experiment_names=["vcm"])["tags.mlflow.runName"])

def attempt(action, *arguments):
    try:
        return action(*arguments)
    except mlflow.MlflowException as refusal:
        return refusal.get_http_status_code()

address = sys.argv[1]
mlflow.set_tracking_uri(address)
told = {{}}
use("admin", {ADMIN_PASSWORD!r})
told["admin writes"] = attempt(write, "admin")
run = mlflow.last_active_run().info.run_id
get_app_client("basic-auth", address).create_user("trainer", "twelve letters")
use("trainer", "twelve letters")
told["a user writes into the same experiment"] = attempt(write, "trainer")
told["a user deletes what admin wrote"] = attempt(mlflow.MlflowClient().delete_run, run)
use("stranger", "twelve letters")
told["a stranger writes"] = attempt(write, "stranger")
print(json.dumps(told))
"""
