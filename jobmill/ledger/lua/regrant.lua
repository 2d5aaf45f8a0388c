-- Granted jobs whose list entry is gone are pushed anew under the next fence: ARGV = age (ms), id, …
-- Safe at any time: an entry with an older fence is void. Answer: the ids.
local told = {}
adds()
for i = 2, #ARGV do
  local j = read(ARGV[i])
  if j and j.state == 'granted' and NOW - tonumber(call('HGET', j.key, 'granted') or NOW) >= tonumber(ARGV[1]) then
    local fence = call('HINCRBY', j.key, 'fence', 1)
    call('HSET', j.key, 'granted', NOW)
    call('RPUSH', P .. 'Granted_Queue' .. lane(j.system), '{"id":"' .. j.id .. '","fence":' .. fence .. ',"run":' .. j.run ..
      ',"arrival":' .. arrival_of(j.score) .. ',"system":"' .. j.system .. '","spec":' .. call('GET', P .. 'Spec:' .. j.id) .. '}')
    told[#told + 1] = j.id
  end
end
return told
