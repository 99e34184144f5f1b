"""A local autoscaler and a stand-in model server for development and tests, and the demo of both.

demo                `start_server.sh demo`
autoscaler          routes, signs and collects reports over HTTP
autoscaler_options  its command line
fleet               its workers, routed and finished requests
messages            its message formats, strictly checked
signing             its RSA key and signatures
certificates        its certificate authority
faults              faults that a test orders from it
model_server        the routes, queue and log of an inference server
model_options       its command line
generation          one response while it is generated
language_model      the n-gram model behind it
llama_engine        llama.cpp's server with a very small model, if its package is there
tiny_llama          that model's file
model_log           its log
serving             an HTTP/1.1 server for both, within a process
"""
