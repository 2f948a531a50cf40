"""What every configuration key means, in one line each, for the help pages.

It knows no types, defaults or rules: those are the dataclasses' own. A test holds that no key is missing here.
"""

SECTIONS = {
    "model": "which causal language model",
    "engine": "how requests are batched: speed only, never the output",
    "sampling": "how tokens are chosen, and when a completion ends",
    "stats": "what is written for every token, all under the model's own distribution",
    "source": "where prompts come from",
    "output": "where generations go",
    "cluster": "where replicas run: speed only, never the output",
    "experiment": "a whole configuration under one name",
}

MEANINGS = {
    "model.path": "a Hugging Face hub id, or a directory",
    "model.revision": "branch, tag or commit of the hub repository",
    "model.dtype": "auto, float32, bfloat16 or float16; auto is float32 on a CPU and the checkpoint's own on a GPU",
    "model.quantization": "none or int8",
    "model.kv_cache_dtype": "auto is the model's own type; bfloat16 halves the cache of a float32 model, int8 quarters it",
    "model.tokenizer": "a hub id or a directory; null is the model's own",
    "model.adapter": "a PEFT (LoRA) directory, merged when the model is loaded",
    "engine.name": "continuous or static",
    "engine.max_num_seqs": "sequences generated at once: a number, or auto; fewer when memory does not hold them",
    "engine.max_model_len": "limit of prompt and generation together; null is the model's context length",
    "engine.max_num_batched_tokens": "tokens a step at most, so that a long prompt does not stall the others",
    "engine.prefix_caching": "compute once what prompts that begin alike share",
    "sampling.n": "completions of each prompt",
    "sampling.temperature": "0 is greedy, 1 is the model's own distribution",
    "sampling.top_k": "keep the k most likely tokens; 0 is off",
    "sampling.top_p": "keep the most likely tokens that together have this probability; 1 is off",
    "sampling.min_p": "drop tokens less likely than this share of the most likely one; 0 is off",
    "sampling.repetition_penalty": "above 1 makes tokens of prompt and generation less likely; 1 is off",
    "sampling.presence_penalty": "subtracted from the logit of every generated token; 0 is off",
    "sampling.frequency_penalty": "the same for each time it was generated; 0 is off",
    "sampling.logit_bias": "added to the logits of tokens, -100 to 100 each, such as {50256:-5}",
    "sampling.bad_words": "texts that are not generated as the tokenizer spells them, such as [foo,bar]",
    "sampling.regex": "a regular expression that the whole text must match; needs llguidance",
    "sampling.choice": "the text must be one of these, such as [positive,negative]; needs llguidance",
    "sampling.json_schema": "a JSON Schema that the text must satisfy: a mapping or its JSON text; needs llguidance",
    "sampling.max_tokens": "generated tokens at most",
    "sampling.min_tokens": "no ending before this many tokens",
    "sampling.stop": r'texts that end a completion, such as ["\n\n",END]; they are not part of its text',
    "sampling.stop_token_ids": "token ids that end a completion",
    "sampling.ignore_eos": "go on after the model's end-of-text token",
    "sampling.seed": "another seed, other samples; the same seed, the same bytes",
    "stats.columns": "any of logprob, entropy, rank",
    "stats.top_logprobs": "the k most likely tokens at every step; 0 is off",
    "stats.prompt_logprobs": "log-probabilities of the prompt's tokens too",
    "source.path": "a Parquet file, a directory, a glob or a URI",
    "source.prompt_column": "the column that holds the prompts; `prompt` when none of these three is given",
    "source.template": "a Jinja template over the row's columns, instead of a prompt column",
    "source.token_ids_column": "a column of token ids, instead of texts",
    "source.id_column": "unique ids; null is <file>:<row>",
    "source.keep_columns": "columns to copy to the output, such as [topic,url]",
    "source.sampling_column": "a struct or JSON column whose non-null fields replace `sampling` for that row",
    "source.limit": "take only the first rows",
    "source.on_long_prompt": "error or truncate_left, when a prompt does not fit the context",
    "source.on_empty_prompt": "error, or bos: begin with the model's beginning-of-text token",
    "output.path": "a directory; when it holds a part of this very run, the rest is done",
    "output.rows_per_shard": "input rows a part: what is committed at once and, after a crash, done again",
    "output.compression": "none, snappy, lz4, gzip, brotli or zstd",
    "output.compression_level": "gzip 1 to 9, brotli 0 to 11, zstd 1 to 22; null is the format's own",
    "output.include_prompt": "write the rendered prompt beside its generation",
    "cluster.name": "inline, local or existing",
    "cluster.address": "with cluster=existing: the address of the Ray cluster, or auto",
    "cluster.replicas": "copies of the model: a number, or auto for as many as processors, GPUs and memory hold",
    "cluster.min_replicas": "fewer than this is no start",
    "cluster.cpus_per_replica": "a number, or auto to share the cores among the replicas",
    "cluster.gpus_per_replica": "fractions share a GPU",
    "cluster.start_timeout": "seconds to wait for the resources of the first replicas",
    "max_error_rate": "exit code 3 when a larger share of the rows are errors",
    "deadline": "a local time of day, such as 06:00 (quoted in YAML), at which the run stops, resumable",
}

MEANINGS_OF = {
    "verify": {
        "output.path": "the folder of the output",
        "replay": "rows that are generated again on this machine and compared bit for bit",
    },
}
"""What a key means in one job, where that is not what it means in `generate`."""

EXIT_CODES = {
    0: "complete",
    1: "unexpected error",
    2: "configuration or plan refused; nothing started, nothing written",
    3: "complete, but more than max_error_rate of the rows are errors",
    4: "verify: something is wrong; each finding is a line that says what mends it",
    75: "stopped early (deadline, storage full, lost cluster); the same command goes on from there",
    130: "interrupted (143: terminated); the same command goes on from there",
}
