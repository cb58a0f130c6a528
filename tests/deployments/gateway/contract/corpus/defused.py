"""Bodies with fields that steer vLLM: served without them, and the answer's head names them."""

from tests.deployments.gateway.contract.corpus.bodies import Body, chat

DEFUSED: dict[str, Body] = {
    "a prompt handed over by another engine": chat(
        kv_transfer_params={
            "prompt_token_ids": [1, 2, 3],
            "do_remote_prefill": True,
            "remote_host": "169.254.169.254",
        }
    ),
    "a cache of an encoder elsewhere": chat(ec_transfer_params={"remote_host": "10.0.0.1"}),
    "a place in front of all": chat(priority=-1000),
    "another caller's cache": chat(cache_salt="somebody"),
    "a template of the caller's": chat(chat_template="{{ cycler.__init__.__globals__.os }}"),
    "arguments of the template": chat(chat_template_kwargs={"chat_template": "x"}),
    "arguments of vLLM's plugins": chat(vllm_xargs={"worker": "collective_rpc"}),
    "a rank of the caller's choice": chat(data_parallel_rank=7),
    "an id of the caller's choice": chat(request_id="../../etc/passwd"),
    "arguments of the media reader": chat(media_io_kwargs={"video": {"num_frames": 10**9}}),
    "arguments of the processor": chat(mm_processor_kwargs={"num_crops": 10**9}),
    "a hidden place in the dialogue": chat(session_id="somebody"),
}
