"""A local autoscaler and a stand-in model server for development and tests, and the demo of both.

demo                `start_server.sh demo`
demo_engines        which model server stands behind the worker
autoscaler          routes, signs and collects reports over HTTP
autoscaler_options  its command line
fleet_page          what a browser shows of them
fleet               its workers, routed and finished requests
messages            its message formats, strictly checked
signing             its RSA key and signatures
certificates        its certificate authority
faults              faults that a test orders from it
model_server        an inference server: loading, queue, log
model_options       its command line
model_api           what makes it one of a kind of servers: routes, log lines
hello_world_api     those of hello_world's server
openai_api          those of vLLM and SGLang, a module for each group of routes
tgi_api             those of TGI
tgi_text            a text of TGI's while it is generated
model_engine        what the routes generate with
model_stats         what was asked and generated
generation          one response while it is generated
language_model      the n-gram model behind it
llama_engine        llama.cpp's server with a very small model, if its package is there
tiny_llama          that model's file
model_log           its log
serving             an HTTP/1.1 server for both, within a process
"""
