"""Weights as files: conversion between layouts, and fetching from a hub."""
