#!/usr/bin/env bash
# Environments of the programs that the kit is measured against: one each, pinned, nothing of them in the kit's own.
#
#     benchmarks/peers.sh [FOLDER] [NAME ...]       FOLDER: benchmarks/.peers; NAME: which of them, all by default
#
# makes FOLDER/NAME/bin/python for
#     recbole         RecBole 1.2.1                                    downstream.py --recbole
#     llm2vec         llm2vec 0.2.3 (transformers 4.44, numpy 1)       encode.py --llm2vec
#     official        what the official code needs, and its code       official_code.py --python, --checkout FOLDER/checkout
#     implicit        implicit 0.7.3: ItemKNN                          peers.py --implicit
#     replay          RePlay 0.22.0, for its SASRec                    no script measures it yet; its ItemKNN asks for Spark
# sentence-transformers is among the kit's own packages (requirements.lock), so encode.py finds it there.
# What is there and imports is left alone. PYTHON names another interpreter, INDEX an index for pip (say, torch's of CPU builds).
# What could not be made is told with pip's last word; the exit status is then 1, and what could be made stands.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/.peers}
[ $# -gt 0 ] && shift
wanted=${*:-recbole llm2vec official implicit replay}
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 1
torch=$(grep '^torch==' "$here/../requirements.lock")
missing=0
export GIT_TERMINAL_PROMPT=0

# make NAME MODULE REQUIREMENT ...: the environment NAME, which must be able to import MODULE.
make() {
  local name=$1 module=$2 env="$folder/$1" said
  shift 2
  if [ ! -x "$env/bin/python" ] || ! (cd / && "$env/bin/python" -I -W ignore -c "import $module") 2>/dev/null; then
    rm -rf "$env"
    said=$("${PYTHON:-python3}" -m venv "$env" 2>&1 &&
      "$env/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check ${INDEX:+--extra-index-url "$INDEX"} "$@" 2>&1 &&
      cd / && "$env/bin/python" -I -W ignore -c "import $module" 2>&1)
    if [ $? -ne 0 ]; then
      rm -rf "$env"
      missing=1
      echo "$name: not made: $(printf '%s' "$said" | grep -v '^ *$' | tail -n 1)"
      return 1
    fi
  fi
  echo "$name: $env/bin/python"
}

for name in $wanted; do
  case $name in
    recbole) make recbole recbole.model.sequential_recommender recbole==1.2.1 "$torch" numpy==1.26.4 pandas==2.2.3 scipy==1.11.4 ;;
    llm2vec) make llm2vec llm2vec.models llm2vec==0.2.3 transformers==4.44.2 numpy==1.26.4 "$torch" ;;
    official)
      make official accelerate,wandb "$torch" transformers==5.24.0 accelerate==1.15.0 wandb==0.31.0 pyyaml numpy==2.4.6 tqdm
      if [ ! -f "$folder/checkout/seqrec/recdata.py" ]; then
        if said=$(git clone --quiet https://github.com/HappyPointer/LLM2Rec "$folder/checkout" 2>&1 &&
          git -C "$folder/checkout" checkout --quiet 73b481f 2>&1); then
          echo "official code: $folder/checkout"
        else
          rm -rf "$folder/checkout"
          missing=1
          echo "official code: not fetched: $(printf '%s' "$said" | tail -n 1)"
        fi
      fi ;;
    implicit) make implicit implicit.nearest_neighbours implicit==0.7.3 numpy==2.4.6 scipy==1.17.1 ;;
    replay) make replay replay.models "replay-rec[torch]==0.22.0" "$torch" ;;
    *) echo "$name is no peer; they are recbole, llm2vec, official, implicit and replay"; missing=1 ;;
  esac
done
exit $missing
