"""The payloads of OpenAI's routes.

base     what they have in common
text     completions, chat, responses, messages: the unit is a token
pooling  embeddings, rerank, score
audio    speech and sounds from text
forms    a payload with files, which the model server gets as multipart/form-data
files    the routes that have such payloads: transcriptions, pictures from pictures, videos
images   pictures from text

Only what the worker needs is checked: the fields that say how much work a request is, and files. Everything
else travels on as the client sent it, and what is wrong with it the model server says.
"""
