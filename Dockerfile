# The demo in a container:  docker build -t failure-directions . && docker run --name demo failure-directions
# and its reports out of it: docker cp demo:/work/demo .
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /work
# What the set-up is made from comes first, so that a change of the code does not install everything again.
COPY Makefile requirements.txt setup.py pyproject.toml README.md LICENSE ./
COPY scripts/install.sh scripts/
COPY src src
COPY dataset_interfaces dataset_interfaces
COPY dataset_configs dataset_configs
COPY svm_configs svm_configs
COPY index_files index_files
RUN make setup
COPY . .
CMD ["make", "demo"]
