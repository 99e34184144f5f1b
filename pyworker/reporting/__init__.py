"""What is counted, and what the autoscaler is told of it.

wire               the messages to the autoscaler, with the field names of the wire
tracker            one request, from admission to its outcome
figures            what the ledger is asked with, and what it answers
open_entries       what is in hand
ledger             counts requests and workload, and fills the status reports
journal_file       the layout of the file of finished requests
journal            finished requests that the autoscaler has not accepted yet, in memory and in the file
autoscaler_client  HTTP requests to the autoscaler
public_key         fetches the key that signs requests
reporter           sends status reports and finished requests until they are accepted
"""
