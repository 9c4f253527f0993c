"""`python -m cid_ray`: the list of commands."""

COMMANDS = """cid_ray: semi-supervised segmentation by Cross-Image Distillation, searched and scaled with Ray

  python -m cid_ray.prepare   images and masks -> an audited table; label splits
  python -m cid_ray.train     one training run: one process, or N workers with Ray Train and Ray Data
  python -m cid_ray.tune      search CID's settings across label ratios with Ray Tune and Optuna
  python -m cid_ray.dashboard live page of one run or several, while they work and after
  python -m cid_ray.report    rebuild a run's table and page from its rows
  python -m cid_ray.cluster   does a search fit on a cluster, how much of it at once, at what cost by the hour
  python -m cid_ray.grafana   put the dashboard of a running search where Ray's Grafana finds it

Each has --help. `python -m cid_ray.tune` with no options runs the embedded example in about five minutes."""

if __name__ == "__main__":
    print(COMMANDS)
