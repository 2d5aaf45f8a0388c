-- Release what is held: ARGV = id, … Answer: 'waiting' | the state it has | 'unknown'.
local told = {}
for i = 1, #ARGV do
  local j = read(ARGV[i])
  if not j then told[i] = 'unknown'
  elseif j.state ~= 'held' then told[i] = j.state
  else
    unindex(j)
    call('HSET', j.key, 'state', 'waiting')
    wait(j)
    note(j, 'waiting')
    told[i] = 'waiting'
  end
end
call('RPUSH', P .. 'Result_Queue', '')
publish()
return told
