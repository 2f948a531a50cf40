"""The only place that knows Ray: the driver, dispatch, replicas and progress."""
