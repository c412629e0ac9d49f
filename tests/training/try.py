import sys, json, time
from pathlib import Path
from tests.training.runs import *
from tests.tiny_model import write_tiny_model
d=Path(sys.argv[1]); d.mkdir(parents=True,exist_ok=True)
if not (d/'model').exists(): write_tiny_model(d/'model'); write_pairs(d/'pairs.parquet'); write_prompts(d/'prompts.parquet')
spec=json.loads(sys.argv[2]); name=spec['name']
t=time.time()
run=Run(d/f"{name}-{int(t)}",spec,d/'model',d/('pairs.parquet' if spec['algorithm']=='dpo' else 'prompts.parquet'),{})
run.start()
try: run.end(500)
except BaseException as e: print(str(e)[-5000:])
print(run.directory, round(time.time()-t,1),'s')
for k in sys.argv[3:]: print(k, {s:round(v,4) for s,v in run.curve(k).items()})
