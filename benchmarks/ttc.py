import sys
from argparse import Namespace
from pathlib import Path
import common, ttc_models
from ttc_models import *
work=Path("runs/benchmarks/ttc")
args=Namespace(data=Path("data"),quick=False,seconds=200.,diffusion_seconds=80.,distill_seconds=40.)
if __name__=="__main__":
    if "--job" in sys.argv:
        common.answer(Path(sys.argv[sys.argv.index("--job")+1]), ttc_models.train); sys.exit()
    machine=common.machine(2)
    jobs=[training_job(args,f"{c.name}, seed {s}",config_of(args,c,s),work,machine) for s in (0,1,2) for c in CASES]
    common.run_jobs(Path(__file__),jobs,2)
