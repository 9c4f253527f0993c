"""Records in; tables, figures and pages out. Needs neither torch nor ray nor optuna."""
