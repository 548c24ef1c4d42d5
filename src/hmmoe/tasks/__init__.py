"""Tasks, one file each: the official layout, sampling, head, loss and metric of a data set."""
