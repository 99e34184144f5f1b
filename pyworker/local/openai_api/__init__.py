"""The OpenAI-compatible API of the local model server, as vLLM and SGLang publish theirs.

api          the routes put together: models, health, errors, the access log
face         in what the engines differ
vllm         vLLM: version, log, error bodies, rerank and score
sglang       SGLang, likewise
service      what every route needs: the request's fields, the model's name, the generation
api_error    an error response, in the words of the engines
fields       the fields of requests that are looked at
text         prompts, and the texts that are generated from them
events       routes, JSON and server-sent events
completions  completions and chat, whole, in batches and as streams
responses    `/v1/responses`
messages     `/v1/messages`
pooling      embeddings, and how similar texts are
audio        speech and transcriptions
images       images and videos
media_files  the WAV, PNG and MP4 files that are sent
"""
