"""A worker for every server with OpenAI's API: vLLM, SGLang, llama.cpp and their like.

settings     the variables of this worker
routes       the routes there are, and which are served
server       backend, handlers and blueprint; also those of the workers that only differ in their engine
data_types/  the payloads of the routes: what is checked, and how much work it is
uploads      files in a request: from base64 in JSON to multipart, with limits
faults       what is wrong with a request, field by field
wav          how long a WAV file plays
settlement   the tokens that a response shows to have been generated
samples      speech and pictures for the benchmark
client       an example of a call
test_load    the load test
"""
