"""Reports: what there is in workdirs, as a table and as one HTML page."""
