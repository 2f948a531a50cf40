"""The jobs, one short module each: compose the configuration, call the library; the only place that knows Hydra."""
