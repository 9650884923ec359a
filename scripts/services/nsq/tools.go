//go:build tools

// Package tools keeps the two programs in go.mod and go.sum; nothing compiles this file.
package tools

import (
	_ "github.com/nsqio/nsq/apps/nsqd"
	_ "github.com/nsqio/nsq/apps/nsqlookupd"
)
