"""What is measured of nets: accuracy, clean and attacked, by exit; intervals, tables, plots."""
