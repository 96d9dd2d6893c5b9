# frozen_string_literal: true

# Prints as JSON what vagrant/Vagrantfile sets, without Vagrant: for tests/test_vagrant.py.

require 'json'

# Notes each call on it: config.vm.box = …, machine.vm.network …
class Recorder
  attr_reader :calls

  def initialize
    @calls = []
  end

  def vm
    self
  end

  def method_missing(name, *arguments, **options)
    @calls << [name.to_s.delete_suffix('='), arguments, options]
    return unless block_given?

    inner = Recorder.new
    yield inner
    @calls.last << inner.calls
  end

  def respond_to_missing?(*)
    true
  end
end

module Vagrant
  def self.configure(_version)
    recorder = Recorder.new
    yield recorder
    puts JSON.generate(recorder.calls)
  end
end

load File.join(__dir__, '../Vagrantfile')
