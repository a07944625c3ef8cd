"""Serve one GGUF model with llama.cpp's own HTTP server (package `xllamacpp`), on loopback only.

It speaks OpenAI-compatible chat completions, `/health` and `/metrics`, until it is terminated.
Prompts and answers are never printed.
"""

import argparse
import os
import signal
import sys

# The package's files are checked by hash: nothing may be written beside them.
sys.dont_write_bytecode = True


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the GGUF file")
    parser.add_argument("--port", type=int, required=True, help="the port on 127.0.0.1")
    parser.add_argument("--threads", type=int, default=0, help="threads to compute with (default: one per core, at most 4)")
    parser.add_argument("--ctx", type=int, default=8192, help="tokens of context, divided among the requests at once (default: 8192)")
    parser.add_argument("--parallel", type=int, default=2, help="requests at once (default: 2)")
    return parser.parse_args()


def name_of(path):
    stem = os.path.splitext(os.path.basename(path))[0]
    return os.path.basename(os.path.dirname(os.path.abspath(path))) if stem == "model" else stem


def parameters(xllamacpp, options):
    threads = options.threads if options.threads > 0 else min(os.cpu_count() or 1, 4)
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    # Answers name the model, not its place on the disk.
    params.model_alias = {name_of(options.model)}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_ctx = options.ctx
    params.n_parallel = options.parallel
    # Each request has its own share: with a common pool, two long ones make both fail half-way (HTTP 500 after half a minute).
    params.kv_unified = False
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    # Requests are few and short; the default of one thread per core costs memory only.
    params.n_threads_http = options.parallel + 2
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    params.use_jinja = True
    params.fit_params = False
    params.cache_ram_mib = 0
    params.n_ctx_checkpoints = 0
    # Errors only: higher levels tell about requests.
    params.verbosity = 1
    # Small models repeat themselves without this; a request may set its own.
    params.sampling.penalty_repeat = 1.1
    return params


def main():
    # The default action ends the process at once, also while native code loads the model.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    options = arguments()
    if not os.path.isfile(options.model):
        sys.exit(f"error: there is no model file `{options.model}`")
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    try:
        import xllamacpp
    except ImportError as error:
        sys.exit(f"error: the llama.cpp package does not load: {error}\nhint: run `crewline setup --local` again")
    try:
        server = xllamacpp.Server(parameters(xllamacpp, options))
    except Exception as error:
        sys.exit(f"error: llama.cpp does not start: {error}")
    print(f"serving on {server.listening_address}", file=sys.stderr, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
